// A minimal NFQUEUE reader on raw netlink, as little work for each packet as can be: the ceiling nfvs is measured
// against by benches/run. -m 1: every payload is written back as it came. -m 2 -V VIP -R SERVER: stateless NAT
// between the two addresses. -a N: N verdicts in one send. -r N: N packets in one recvmmsg. -g: F_GSO.
// Not a model of style: it stays as it was when the targets were set.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/resource.h>
#include <linux/netlink.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
static int fd; static volatile int stop;
static void onalrm(int s){(void)s;stop=1;}
static void put(struct nlmsghdr*n,int type,const void*d,int len){struct nlattr*a=(void*)((char*)n+NLMSG_ALIGN(n->nlmsg_len));a->nla_type=type;a->nla_len=NLA_HDRLEN+len;memcpy((char*)a+NLA_HDRLEN,d,len);n->nlmsg_len=NLMSG_ALIGN(n->nlmsg_len)+NLA_ALIGN(a->nla_len);}
static struct nlmsghdr*hdr(char*b,int type,int q,int fl){struct nlmsghdr*n=(void*)b;memset(b,0,64);n->nlmsg_len=NLMSG_LENGTH(sizeof(struct nfgenmsg));n->nlmsg_type=(NFNL_SUBSYS_QUEUE<<8)|type;n->nlmsg_flags=NLM_F_REQUEST|fl;struct nfgenmsg*g=NLMSG_DATA(n);g->nfgen_family=AF_UNSPEC;g->version=0;g->res_id=htons(q);return n;}
static void ack(const char*w){char b[4096];int r=recv(fd,b,sizeof b,0);struct nlmsghdr*n=(void*)b;if(r>0&&n->nlmsg_type==NLMSG_ERROR){int e=*(int*)NLMSG_DATA(n);if(e)fprintf(stderr,"%s: %s\n",w,strerror(-e));}}
static unsigned short csum(const void*p,int len,unsigned sum){const unsigned char*c=p;for(int i=0;i+1<len;i+=2)sum+=(c[i]<<8)|c[i+1];if(len&1)sum+=c[len-1]<<8;while(sum>>16)sum=(sum&0xffff)+(sum>>16);return ~sum;}
static void upd32(unsigned short*ck,unsigned o,unsigned n){unsigned s=(~ntohs(*ck))&0xffff;o=ntohl(o);n=ntohl(n);s+=(~o>>16)&0xffff;s+=(~o)&0xffff;s+=n>>16;s+=n&0xffff;while(s>>16)s=(s&0xffff)+(s>>16);*ck=htons(~s);}
int main(int c,char**v){
 int q=0,copy=65531,secs=5,agg=1,gso=0,mode=0,batch=0,rm=32,maxlen=8192,o;unsigned vip=0,rip=0,lip=0;
 while((o=getopt(c,v,"q:c:t:a:gm:b:r:V:R:L:l:"))!=-1)switch(o){case'q':q=atoi(optarg);break;case'c':copy=atoi(optarg);break;case't':secs=atoi(optarg);break;case'a':agg=atoi(optarg);break;case'g':gso=1;break;case'm':mode=atoi(optarg);break;case'b':batch=atoi(optarg);break;case'r':rm=atoi(optarg);break;case'V':vip=inet_addr(optarg);break;case'R':rip=inet_addr(optarg);break;case'L':lip=inet_addr(optarg);break;case'l':maxlen=atoi(optarg);break;}
 fd=socket(AF_NETLINK,SOCK_RAW,NETLINK_NETFILTER);struct sockaddr_nl sa={.nl_family=AF_NETLINK};bind(fd,(void*)&sa,sizeof sa);
 int sz=32<<20,one=1;setsockopt(fd,SOL_SOCKET,SO_RCVBUFFORCE,&sz,sizeof sz);setsockopt(fd,SOL_SOCKET,SO_SNDBUFFORCE,&sz,sizeof sz);setsockopt(fd,SOL_NETLINK,NETLINK_NO_ENOBUFS,&one,sizeof one);
 char b[256];struct nlmsghdr*n;
 n=hdr(b,NFQNL_MSG_CONFIG,q,NLM_F_ACK);struct nfqnl_msg_config_cmd cm={.command=NFQNL_CFG_CMD_BIND,.pf=htons(AF_INET)};put(n,NFQA_CFG_CMD,&cm,sizeof cm);send(fd,b,n->nlmsg_len,0);ack("bind");
 n=hdr(b,NFQNL_MSG_CONFIG,q,NLM_F_ACK);struct nfqnl_msg_config_params pr={.copy_mode=copy?NFQNL_COPY_PACKET:NFQNL_COPY_META,.copy_range=htonl(copy)};put(n,NFQA_CFG_PARAMS,&pr,sizeof pr);
 unsigned ml=htonl(maxlen);put(n,NFQA_CFG_QUEUE_MAXLEN,&ml,4);unsigned f=htonl(gso?NFQA_CFG_F_GSO:0),mk=htonl(NFQA_CFG_F_GSO);put(n,NFQA_CFG_FLAGS,&f,4);put(n,NFQA_CFG_MASK,&mk,4);send(fd,b,n->nlmsg_len,0);ack("params");
 signal(SIGALRM,onalrm);struct sigaction s={.sa_handler=onalrm};sigaction(SIGALRM,&s,0);alarm(secs);
 enum{BS=70000};static char*bufs[256];static struct mmsghdr mm[256];static struct iovec iv[256];for(int i=0;i<rm;i++){bufs[i]=malloc(BS);iv[i].iov_base=bufs[i];iv[i].iov_len=BS;mm[i].msg_hdr.msg_iov=&iv[i];mm[i].msg_hdr.msg_iovlen=1;}
 static char out[1<<20];int ol=0,pend=0;unsigned long pk=0,gs=0,trunc=0,maxp=0,csnr=0,sends=0,recvs=0;unsigned last=0;int since=0;struct timespec t0={0},t1;
 while(!stop){
  int r=recvmmsg(fd,mm,rm,MSG_WAITFORONE,0);if(r<=0){if(errno==EINTR)continue;if(errno==ENOBUFS)continue;perror("recv");break;}recvs++;if(!t0.tv_sec){clock_gettime(CLOCK_MONOTONIC,&t0);struct rusage z;getrusage(RUSAGE_SELF,&z);}
  for(int i=0;i<r;i++){int len=mm[i].msg_len;for(struct nlmsghdr*h=(void*)bufs[i];NLMSG_OK(h,len);h=NLMSG_NEXT(h,len)){
   if(h->nlmsg_type==NLMSG_ERROR){int e=*(int*)NLMSG_DATA(h);static int w;if(w++<5)fprintf(stderr,"nlerr %s\n",strerror(-e));continue;}
   struct nlattr*a=(void*)((char*)NLMSG_DATA(h)+NLMSG_ALIGN(sizeof(struct nfgenmsg)));int al=h->nlmsg_len-((char*)a-(char*)h);unsigned id=0,info=0,cap=0;unsigned char*pl=0;int pll=0;
   while(al>=(int)sizeof*a&&a->nla_len>=sizeof*a&&a->nla_len<=al){void*d=(char*)a+NLA_HDRLEN;switch(a->nla_type&0x3fff){case NFQA_PACKET_HDR:id=ntohl(((struct nfqnl_msg_packet_hdr*)d)->packet_id);break;case NFQA_SKB_INFO:info=ntohl(*(unsigned*)d);break;case NFQA_CAP_LEN:cap=ntohl(*(unsigned*)d);break;case NFQA_PAYLOAD:pl=d;pll=a->nla_len-NLA_HDRLEN;break;}int st=NLA_ALIGN(a->nla_len);al-=st;a=(void*)((char*)a+st);}
   pk++;if(info&NFQA_SKB_GSO)gs++;if(info&NFQA_SKB_CSUMNOTREADY)csnr++;if(cap)trunc++;if((unsigned)pll>maxp)maxp=pll;
   last=id;since++;
   if(batch){if(since>=batch){n=hdr(out,NFQNL_MSG_VERDICT_BATCH,q,0);struct nfqnl_msg_verdict_hdr vh={htonl(NF_ACCEPT),htonl(last)};put(n,NFQA_VERDICT_HDR,&vh,sizeof vh);send(fd,out,n->nlmsg_len,0);sends++;since=0;}continue;}
   n=hdr(out+ol,NFQNL_MSG_VERDICT,q,0);struct nfqnl_msg_verdict_hdr vh={htonl(NF_ACCEPT),htonl(id)};put(n,NFQA_VERDICT_HDR,&vh,sizeof vh);
   if(mode==1){put(n,NFQA_PAYLOAD,pl,pll);}               // echo payload back
   if(mode==4){unsigned m=htonl(7);put(n,NFQA_MARK,&m,4);}
   if(mode==2&&pll>=20){ // NAT: vip->rip ; reverse rip->vip (src)
     unsigned*sp=(void*)(pl+12),*dp=(void*)(pl+16);int ihl=(pl[0]&15)*4;unsigned short*ic=(void*)(pl+10),*lc=pl[9]==6?(void*)(pl+ihl+16):pl[9]==17?(void*)(pl+ihl+6):0;unsigned*w=0,nw=0;
     if(*dp==vip){w=dp;nw=rip;}else if(*sp==rip){w=sp;nw=vip;}
     if(w){int np=info&NFQA_SKB_CSUMNOTREADY;if(lc&&!np&&(pl[9]!=17||*lc))upd32(lc,*w,nw);upd32(ic,*w,nw);*w=nw;if(lc&&np){if(info&NFQA_SKB_GSO){}else{*lc=0;int tl=pll-ihl;unsigned ps=pl[9]+tl;for(int k=12;k<20;k+=2)ps+=(pl[k]<<8)|pl[k+1];*lc=htons(csum(pl+ihl,tl,ps));}}put(n,NFQA_PAYLOAD,pl,pll);}
   }
   if(mode==3&&pll>=20){ // IPIP encap toward rip
     static unsigned char e[70000];memset(e,0,20);e[0]=0x45;*(unsigned short*)(e+2)=htons(pll+20);e[8]=64;e[9]=4;*(unsigned*)(e+12)=lip;*(unsigned*)(e+16)=rip;*(unsigned short*)(e+10)=htons(csum(e,20,0));memcpy(e+20,pl,pll);put(n,NFQA_PAYLOAD,e,pll+20);}
   if(mode==5&&pll>=40){ // IPIP decap
     if(pl[9]==4){put(n,NFQA_PAYLOAD,pl+20,pll-20);} }
   ol+=NLMSG_ALIGN(n->nlmsg_len);pend++;
   if(pend>=agg||ol>(1<<19)){{if(send(fd,out,ol,0)<0){static int w;if(w++<3)perror("send");}}sends++;ol=0;pend=0;}
  }}
  if(pend){{if(send(fd,out,ol,0)<0){static int w;if(w++<3)perror("send");}}sends++;ol=0;pend=0;}
  if(batch&&since){n=hdr(out,NFQNL_MSG_VERDICT_BATCH,q,0);struct nfqnl_msg_verdict_hdr vh={htonl(NF_ACCEPT),htonl(last)};put(n,NFQA_VERDICT_HDR,&vh,sizeof vh);send(fd,out,n->nlmsg_len,0);sends++;since=0;}
 }
 clock_gettime(CLOCK_MONOTONIC,&t1);struct rusage u;getrusage(RUSAGE_SELF,&u);double el=(t1.tv_sec-t0.tv_sec)+(t1.tv_nsec-t0.tv_nsec)/1e9;double cpu=u.ru_utime.tv_sec+u.ru_stime.tv_sec+(u.ru_utime.tv_usec+u.ru_stime.tv_usec)/1e6;
 printf("pkts=%lu rate=%.0f/s cpu=%.2fs ns/pkt=%.0f gso=%lu csumnotready=%lu trunc=%lu maxpl=%lu sends=%lu recvs=%lu\n",pk,pk/el,cpu,pk?cpu*1e9/pk:0,gs,csnr,trunc,maxp,sends,recvs);
 return 0;}
